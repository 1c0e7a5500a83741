package adminapi

import "time"

// PolicyVersion is a policy that was accepted, or is in force.
type PolicyVersion struct {
	Number   int64     `json:"number" doc:"Counts from 1; 0 for a policy that is in force and not recorded."`
	Digest   string    `json:"digest" doc:"sha256: and 64 hexadecimal digits; what audit records name."`
	Source   string    `json:"source" enum:"file,managed"`
	Author   string    `json:"author,omitempty" doc:"Who changed it; absent where the source is a file."`
	Comment  string    `json:"comment,omitempty"`
	Accepted time.Time `json:"accepted,omitzero"`
}

// PolicyDocument is a policy with its text.
type PolicyDocument struct {
	PolicyVersion
	InForce  bool   `json:"in_force" doc:"Whether the gateway that answers decides by it."`
	Document string `json:"document" doc:"The policy file, byte for byte."`
}

// PolicyText is a policy that is asked about.
type PolicyText struct {
	Document string `json:"document" doc:"A policy file."`
}

// Fault is a place in a policy file that is wrong, or probably not meant.
type Fault struct {
	Line    int    `json:"line,omitempty" doc:"From 1; absent where the fault has no place."`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

// PolicyCheck is what a gateway thinks of a policy.
type PolicyCheck struct {
	Valid    bool    `json:"valid" doc:"Whether it loads and its tests hold: whether it would be accepted."`
	Digest   string  `json:"digest"`
	Services int     `json:"services"`
	Rules    int     `json:"rules"`
	Tests    int     `json:"tests"`
	Faults   []Fault `json:"faults,omitempty" doc:"Why it does not load."`
	Failures []Fault `json:"failures,omitempty" doc:"The expectations of its tests that do not hold."`
	Warnings []Fault `json:"warnings,omitempty" doc:"Legal, but probably not meant."`
}

// PolicyApply replaces the policy.
type PolicyApply struct {
	Document string `json:"document" doc:"The new policy file."`
	Expected int64  `json:"expected" doc:"The number of the version that it is based on; 0 when there is none yet."`
	Comment  string `json:"comment,omitempty" doc:"Why, for the history."`
}

// PolicyRollback puts an earlier document into force, as a new version.
type PolicyRollback struct {
	Number   int64  `json:"number" doc:"The version whose document is applied again."`
	Expected int64  `json:"expected" doc:"The number of the version that is in force."`
	Comment  string `json:"comment,omitempty"`
}

// PolicyApplied is the new version.
type PolicyApplied struct {
	PolicyVersion
	Warnings  []Fault `json:"warnings,omitempty"`
	Reference string  `json:"reference" doc:"Of the audit record."`
}

// PolicyDiff asks what a policy would change.
type PolicyDiff struct {
	Document string    `json:"document" doc:"The policy file to compare with the one in force."`
	Since    time.Time `json:"since,omitzero" doc:"Decide the recorded streams since then again; none if left out."`
}

// DiffLine is one line of the answer to a [PolicyDiff]: exactly one field is there. The last line is a result or a
// problem; an answer without either was cut short.
type DiffLine struct {
	Progress *DiffProgress `json:"progress,omitempty"`
	Result   *DiffResult   `json:"result,omitempty"`
	Problem  *Problem      `json:"problem,omitempty"`
}

// DiffProgress says how far the preview is.
type DiffProgress struct {
	Done  int64 `json:"done" doc:"Recorded streams decided again so far."`
	Total int64 `json:"total" doc:"How many there are."`
}

// DiffResult is what a policy would change.
type DiffResult struct {
	From       string     `json:"from" doc:"The digest of the policy in force."`
	To         string     `json:"to" doc:"The digest of the new one."`
	Difference Difference `json:"difference"`
	Preview    *Preview   `json:"preview,omitempty" doc:"Absent when no time was asked for."`
	Warnings   []Fault    `json:"warnings,omitempty"`
	UsersCut   bool       `json:"users_cut,omitempty" doc:"The difference is not worked out for everybody: more people have been seen, or they gain and lose more, than are listed."`
}

// Difference compares two policies by what they mean: order and comments do not matter.
type Difference struct {
	Services []NamedChange   `json:"services" doc:"Services that are added, removed or changed."`
	Rules    []NamedChange   `json:"rules" doc:"Rules that are added, removed, changed or renamed."`
	Groups   []SubjectChange `json:"groups" doc:"What everyone, groups and named users gain and lose, each taken alone."`
	Users    []SubjectChange `json:"users" doc:"What the people whom the gateways have seen gain and lose, with all their groups."`
}

// NamedChange is a service or a rule that differs.
type NamedChange struct {
	Name   string        `json:"name"`
	Change string        `json:"change" enum:"added,removed,changed,renamed"`
	Was    string        `json:"was,omitempty" doc:"The old name of a renamed rule."`
	Fields []FieldChange `json:"fields,omitempty"`
}

// FieldChange is one setting in both policies, as text; absent where it is not set.
type FieldChange struct {
	Field string `json:"field"`
	Old   string `json:"old,omitempty" doc:"Of a list: what only the old one has."`
	New   string `json:"new,omitempty" doc:"Of a list: what only the new one has."`
}

// SubjectChange is what a group or a person gains and loses.
type SubjectChange struct {
	Kind   string        `json:"kind" enum:"everyone,group,user"`
	Name   string        `json:"name" doc:"As rules name it; * for everyone."`
	User   string        `json:"user,omitempty" doc:"The user id of a person whom the gateways have seen."`
	Grants []GrantChange `json:"grants"`
}

// GrantChange is the access to one service under both policies.
type GrantChange struct {
	Service string `json:"service"`
	Change  string `json:"change" enum:"gained,lost,changed"`
	Old     string `json:"old,omitempty" doc:"In words, with its conditions; absent where there was none."`
	New     string `json:"new,omitempty"`
}

// Preview is what recorded streams would be answered. Streams is the sum of the counts behind it.
type Preview struct {
	Since       time.Time       `json:"since"`
	Streams     int64           `json:"streams" doc:"In the record since then."`
	Unchanged   int64           `json:"unchanged" doc:"Their answer stays."`
	Drifted     int64           `json:"drifted" doc:"Both policies agree, and the record says otherwise: not the new policy's doing."`
	Undecidable int64           `json:"undecidable" doc:"Too little was recorded of them."`
	NotByPolicy int64           `json:"not_by_policy" doc:"Nothing that a policy decides."`
	Changed     int64           `json:"changed" doc:"Their answer differs, those that are not listed included."`
	Transitions []Transition    `json:"transitions" doc:"All that change, by what becomes what."`
	Changes     []PreviewChange `json:"changes" doc:"The most frequent first."`
	Omitted     int64           `json:"omitted,omitempty" doc:"Streams whose change is one too many to list."`
}

// Transition counts the streams that one answer becomes another for.
type Transition struct {
	Was     string `json:"was" enum:"allowed,failed,step_up_required,denied"`
	Becomes string `json:"becomes" enum:"allowed,failed,step_up_required,denied"`
	Count   int64  `json:"count"`
}

// PreviewChange is what happens to one person's streams to one service.
type PreviewChange struct {
	User    Person    `json:"user"`
	Service string    `json:"service" doc:"Or the target, where it is no service."`
	Was     string    `json:"was" enum:"allowed,failed,step_up_required,denied"`
	Becomes string    `json:"becomes" enum:"allowed,failed,step_up_required,denied"`
	Rule    string    `json:"rule,omitempty" doc:"Of the new policy, that decides."`
	Reason  string    `json:"reason,omitempty" doc:"Of the latest one."`
	Count   int64     `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// PolicyExplain asks how a target would be decided.
type PolicyExplain struct {
	Target string    `json:"target" doc:"A service's name, NAME:PORT or ADDRESS:PORT; /udp behind it for what is not tcp."`
	User   string    `json:"user,omitempty" doc:"USER; nobody in particular if left out."`
	Groups *[]string `json:"groups,omitempty" doc:"Instead of those of the user's last login; with the provider before them, as in a policy, or without."`
	Device *Device   `json:"device,omitempty" doc:"What the device says of itself; unknown if left out."`
	Auth   *Auth     `json:"auth,omitempty" doc:"How the person logged in; a login of this moment if left out."`
	Client string    `json:"client,omitempty" doc:"The address that the client connects from."`
	At     time.Time `json:"at,omitzero" doc:"The moment of the decision; now if left out."`
	// Document asks about another policy than the one in force.
	Document string `json:"document,omitempty" doc:"A policy file to decide by, instead of the one in force."`
}

// Device is what a device says of itself. What is absent is unknown.
type Device struct {
	OS            string `json:"os,omitempty"`
	OSVersion     string `json:"os_version,omitempty"`
	Arch          string `json:"arch,omitempty"`
	ClientVersion string `json:"client_version,omitempty"`
	DiskEncrypted *bool  `json:"disk_encrypted,omitempty"`
	Firewall      *bool  `json:"firewall,omitempty"`
	ScreenLock    *bool  `json:"screen_lock,omitempty"`
	HardwareKey   *bool  `json:"hardware_key,omitempty"`
}

// Auth is how somebody logged in.
type Auth struct {
	Age   *Duration `json:"age,omitempty" doc:"How long ago."`
	ACR   string    `json:"acr,omitempty"`
	AMR   []string  `json:"amr,omitempty"`
	Login string    `json:"login,omitempty" enum:"login,device"`
}

// Decision is the answer for one target.
type Decision struct {
	Allowed   bool     `json:"allowed"`
	Service   string   `json:"service,omitempty" doc:"As which service it was decided."`
	Rule      string   `json:"rule,omitempty" doc:"The rule that decided."`
	Code      string   `json:"code" doc:"ok, or the code that the client gets."`
	Condition string   `json:"condition,omitempty" doc:"What made it a refusal."`
	Reason    string   `json:"reason,omitempty" doc:"For the person: why not."`
	Remedy    string   `json:"remedy,omitempty" doc:"For the person: what helps."`
	StepUp    Duration `json:"step_up,omitempty" doc:"A login not older than this is needed first."`
	// Until is the next moment at which time alone may change the answer.
	Until time.Time `json:"until,omitzero" doc:"When time alone may change the answer."`
}

// Explanation is a decision with each rule that names the target.
type Explanation struct {
	Policy  string      `json:"policy" doc:"The digest of the policy that it was decided by."`
	Subject *User       `json:"subject,omitempty" doc:"Whom it was decided for, when somebody was named."`
	Answer  Decision    `json:"decision"`
	Rules   []RuleTrace `json:"rules" doc:"Every rule that names the target, in the file's order."`
	// Addresses are those that an allowed service is known to lead to and that are refused.
	Addresses []AddressTrace `json:"addresses,omitempty" doc:"The addresses that the target leads to and that are refused, although the target is allowed."`
}

// AddressTrace says why an address is refused that an allowed service leads to.
type AddressTrace struct {
	Address string      `json:"address" doc:"The address and port."`
	Answer  Decision    `json:"decision"`
	Rules   []RuleTrace `json:"rules" doc:"Every rule that names a service at this address, in the file's order."`
}

// RuleTrace says what a rule did in a decision.
type RuleTrace struct {
	Name    string      `json:"name"`
	Service string      `json:"service,omitempty" doc:"Which of the services that the target belongs to it is about."`
	Line    int         `json:"line,omitempty" doc:"Where it stands in the policy file."`
	Effect  string      `json:"effect" enum:"allow,deny"`
	Outcome string      `json:"outcome" enum:"decides,matches,nearly,no"`
	Failed  []Criterion `json:"failed,omitempty" doc:"What did not hold."`
	Doubts  []Criterion `json:"doubts,omitempty" doc:"What nobody could decide, and what counts against the person: a deny matches with it."`
}

// Criterion is one thing that a rule asks for.
type Criterion struct {
	What   string `json:"what"`
	Detail string `json:"detail,omitempty"`
}

// Access is what one person gets at one service.
type Access struct {
	User     Person   `json:"user"`
	Service  string   `json:"service"`
	Grant    string   `json:"grant,omitempty" doc:"What the rules give, in words: always, or under which conditions; absent where they give nothing."`
	Decision Decision `json:"decision" doc:"For a stream that opens at that moment."`
}

// WhoQuery asks who reaches a service.
type WhoQuery struct {
	Service string    `query:"service,required" doc:"The service's name."`
	At      time.Time `query:"at" doc:"The moment of the decision; now if left out."`
	All     bool      `query:"all" doc:"List the people who do not reach it, too."`
	List
}

// WhatQuery asks what a person reaches.
type WhatQuery struct {
	User string    `query:"user,required" doc:"USER."`
	At   time.Time `query:"at" doc:"The moment of the decision; now if left out."`
	List
}
