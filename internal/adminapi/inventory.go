package adminapi

import "time"

// AuditQuery selects audit records by the index of the database. The files are the record.
type AuditQuery struct {
	Since   time.Time `query:"since"`
	Until   time.Time `query:"until"`
	User    string    `query:"user" doc:"USER."`
	Service string    `query:"service"`
	Session string    `query:"session"`
	Device  string    `query:"device"`
	Event   string    `query:"event" doc:"As stream.denied or policy.changed."`
	Gateway string    `query:"gateway"`
	List
}

// AuditRecord is what the index has of an audit record.
type AuditRecord struct {
	Gateway    string    `json:"gateway"`
	Log        string    `json:"log" doc:"The log of the gateway's run."`
	Seq        uint64    `json:"seq" doc:"The record's number in it."`
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	Reference  string    `json:"reference,omitempty" doc:"What the person was shown."`
	User       *Person   `json:"user,omitempty"`
	Session    string    `json:"session,omitempty"`
	Device     string    `json:"device,omitempty"`
	Serial     string    `json:"serial,omitempty"`
	Remote     string    `json:"remote,omitempty"`
	Service    string    `json:"service,omitempty"`
	Kind       string    `json:"kind,omitempty"`
	Target     string    `json:"target,omitempty"`
	Address    string    `json:"address,omitempty"`
	Rule       string    `json:"rule,omitempty"`
	Policy     string    `json:"policy,omitempty"`
	Code       string    `json:"code,omitempty"`
	Condition  string    `json:"condition,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Detail     string    `json:"detail,omitempty"`
	Stream     string    `json:"stream,omitempty" doc:"Joins the opening and the closing record."`
	Link       string    `json:"link,omitempty" doc:"Joins the records of one connection."`
	Sent       int64     `json:"sent,omitempty" doc:"Bytes to the service."`
	Received   int64     `json:"received,omitempty" doc:"Bytes from the service."`
	DurationMS int64     `json:"duration_ms,omitempty"`
	Repeated   int64     `json:"repeated,omitempty" doc:"How many further equal records this one stands for."`
}

// AuditReference is every record with one reference.
type AuditReference struct {
	Records []AuditRecord `json:"records"`
}

// DeviceQuery selects devices.
type DeviceQuery struct {
	User string `query:"user" doc:"USER."`
	List
}

// DeviceEntry is a device that somebody logged in with.
type DeviceEntry struct {
	ID        string    `json:"id"`
	User      Person    `json:"user"`
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	Client    string    `json:"client,omitempty" doc:"The program that it last logged in with."`
	Sessions  int       `json:"sessions" doc:"That may still be renewed."`
}

// CertificateQuery selects certificates. Exactly one of the first three must be set.
type CertificateQuery struct {
	Session string `query:"session" doc:"A session's id."`
	User    string `query:"user" doc:"USER."`
	Serial  string `query:"serial" doc:"32 hexadecimal digits."`
	List
}

// Certificate is an entry of the inventory.
type Certificate struct {
	Serial      string    `json:"serial"`
	Kind        string    `json:"kind" enum:"client,gateway"`
	Session     string    `json:"session,omitempty"`
	Holder      string    `json:"holder" doc:"The URI in it."`
	IssuedAt    time.Time `json:"issued_at"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint" doc:"The SHA-256 of the certificate."`
}

// Gateway is a gateway that shares the database.
type Gateway struct {
	ID       string    `json:"id"`
	Address  string    `json:"address,omitempty"`
	Version  string    `json:"version"`
	Policy   string    `json:"policy" doc:"The digest of the policy that it decides by."`
	Started  time.Time `json:"started"`
	LastSeen time.Time `json:"last_seen"`
	Alive    bool      `json:"alive" doc:"Whether it has been heard of lately."`
	Sessions int       `json:"sessions"`
	Streams  int       `json:"streams"`
}

// UserQuery selects users.
type UserQuery struct {
	User string `query:"user" doc:"USER: lists only whom it names."`
	List
}

// User is a person whom the gateway has seen, with what their last login said.
type User struct {
	Person
	Issuer       string    `json:"issuer"`
	Subject      string    `json:"subject"`
	EmailTrusted bool      `json:"email_trusted"`
	GroupsKnown  bool      `json:"groups_known" doc:"False when the provider did not say."`
	Groups       []string  `json:"groups,omitempty"`
	ACR          string    `json:"acr,omitempty"`
	Login        string    `json:"login,omitempty" enum:"login,device"`
	FirstSeen    time.Time `json:"first_seen"`
	LastSeen     time.Time `json:"last_seen"`
}
