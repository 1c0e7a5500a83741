// An independent, certified OpenID provider for the tests: the npm package
// oidc-provider with its own development login pages. It prints one line of
// JSON with its issuer, and ends when its standard input does.
//
// GROUPS=id_token puts the groups claim into the ID token, GROUPS=userinfo
// leaves it to the userinfo endpoint (oidc-provider's own default).
// BACKCHANNEL_LOGOUT_URI has logout tokens sent there (OpenID Connect Back-Channel
// Logout 1.0) when a session ends at the provider.
// POST /control/{disable,enable}?sub=ada and /control/groups?sub=ada&groups=a,b
// change an account while the provider runs.
import { createServer } from 'node:http';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

// The modules may lie in another folder than this file.
const require = createRequire(pathToFileURL(join(process.env.CULVERT_TEST_NODE_MODULES, 'x.js')));
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const accounts = new Map([
  ['ada', { name: 'Ada', groups: ['engineering'] }],
  ['bob', { name: 'Bob', groups: ['sales'] }],
  ['root-admin', { name: 'Root Admin', groups: ['admins'] }],
]);

function account(sub) {
  const found = accounts.get(sub);
  if (!found || found.disabled) return undefined;
  return {
    accountId: sub,
    claims: () => ({
      sub,
      name: found.name,
      email: `${sub}@corp.example`,
      email_verified: true,
      groups: found.groups,
    }),
  };
}

const logoutURI = process.env.BACKCHANNEL_LOGOUT_URI;

const server = createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [{
    client_id: 'culvert',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    redirect_uris: ['http://127.0.0.1/callback'],
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'],
    ...(logoutURI && { backchannel_logout_uri: logoutURI, backchannel_logout_session_required: true }),
  }],
  findAccount: (ctx, sub) => account(sub),
  claims: {
    openid: ['sub'],
    profile: ['name'],
    email: ['email', 'email_verified'],
    groups: ['groups'],
    auth_time: null, acr: null, amr: null, sid: null, iss: null,
  },
  scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
  conformIdTokenClaims: process.env.GROUPS !== 'id_token',
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    backchannelLogout: { enabled: Boolean(logoutURI) },
    rpInitiatedLogout: {
      // The default page asks with buttons outside of its form.
      logoutSource(ctx, form) {
        ctx.body = form.replace('</form>', '<input type="hidden" name="logout" value="yes"/></form>');
      },
    },
  },
  // The gateway of the tests is on loopback, where this provider refuses to send logout tokens.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: (ctx, client, code) => code.scopes.has('offline_access'),
  ttl: { IdToken: 300, AccessToken: 300, RefreshToken: 3600, DeviceCode: 300, Session: 3600, Grant: 3600, Interaction: 600 },
});

provider.use(async (ctx, next) => {
  const control = /^\/control\/(disable|enable|groups)$/.exec(ctx.path);
  if (!control) return next();
  const found = accounts.get(ctx.query.sub);
  if (!found || ctx.method !== 'POST') {
    ctx.status = 404;
    return undefined;
  }
  if (control[1] === 'groups') found.groups = ctx.query.groups.split(',').filter(Boolean);
  else found.disabled = control[1] === 'disable';
  ctx.status = 204;
  return undefined;
});

provider.on('backchannel.error', (ctx, error) => console.log('backchannel logout failed:', error));
server.on('request', provider.callback());
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
console.log(JSON.stringify({ issuer }));
