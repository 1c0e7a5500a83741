package adminapi

import "time"

// SessionQuery selects sessions.
type SessionQuery struct {
	User     string `query:"user" doc:"USER."`
	Device   string `query:"device" doc:"A device's id."`
	Gateway  string `query:"gateway" doc:"The gateway that it is connected to."`
	Detached bool   `query:"detached" doc:"Those too that may be renewed and are not connected at the moment."`
	List
}

// Session is what a login began.
type Session struct {
	ID          string       `json:"id"`
	User        Person       `json:"user"`
	Device      string       `json:"device"`
	Login       string       `json:"login,omitempty" enum:"login,device" doc:"How it began; absent in a list of connected ones."`
	Client      string       `json:"client,omitempty" doc:"The program that began it, by its own word."`
	AuthTime    time.Time    `json:"auth_time,omitzero" doc:"When the person last logged in at the provider."`
	Created     time.Time    `json:"created,omitzero"`
	Deadline    time.Time    `json:"deadline,omitzero" doc:"After it only a new login helps."`
	Ended       time.Time    `json:"ended,omitzero"`
	EndReason   string       `json:"end_reason,omitempty"`
	Connections []Connection `json:"connections" doc:"To any gateway, right now."`
}

// Connection is a tunnel connection of a session.
type Connection struct {
	Gateway  string    `json:"gateway"`
	ID       uint64    `json:"id" doc:"Unique in the gateway's run."`
	Serial   string    `json:"serial" doc:"Of the certificate that it goes by."`
	Remote   string    `json:"remote" doc:"Address and port of the desktop."`
	Client   string    `json:"client,omitempty" doc:"The program's own word about itself."`
	Since    time.Time `json:"since"`
	NotAfter time.Time `json:"not_after" doc:"When the certificate expires."`
	Streams  int       `json:"streams"`
	BytesIn  int64     `json:"bytes_in" doc:"From the desktop."`
	BytesOut int64     `json:"bytes_out" doc:"To the desktop."`
	Updated  time.Time `json:"updated" doc:"When the gateway last reported these numbers."`
	// Open are its streams, where the gateway that answers is the one that has it.
	Open []Stream `json:"open,omitempty" doc:"Its streams; only of connections to the gateway that answers, and not in lists."`
}

// Stream is an open stream.
type Stream struct {
	Target     string    `json:"target" doc:"As it was asked for."`
	Service    string    `json:"service,omitempty"`
	Rule       string    `json:"rule,omitempty"`
	Address    string    `json:"address,omitempty" doc:"That was dialed."`
	Decided    bool      `json:"decided" doc:"False while it waits for an answer."`
	Since      time.Time `json:"since"`
	LastActive time.Time `json:"last_active,omitzero"`
	BytesIn    int64     `json:"bytes_in"`
	BytesOut   int64     `json:"bytes_out"`
}

// SessionDetail is a session with what it has of certificates.
type SessionDetail struct {
	Session
	Certificates []Certificate `json:"certificates" doc:"The oldest first."`
}

// SessionEnd ends a session for good.
type SessionEnd struct {
	Reason string `json:"reason" doc:"Shown to the person."`
}

// SessionEnded is a session that was ended.
type SessionEnded struct {
	Session
	Reference string `json:"reference" doc:"Of the audit record."`
}

// Lock shuts somebody or something out.
type Lock struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind" enum:"user,device,session,certificate,group,login"`
	Target  string    `json:"target" doc:"What is locked: an id, a serial number, or provider/group."`
	User    *Person   `json:"user,omitempty" doc:"The locked user, when the gateway has seen them."`
	Message string    `json:"message,omitempty" doc:"Shown to who is locked out."`
	Author  string    `json:"author,omitempty"`
	Created time.Time `json:"created"`
	// IssuedBefore limits the lock to what was issued by then.
	IssuedBefore time.Time `json:"issued_before,omitzero" doc:"Only logins up to then are locked; a new login is free."`
	Expires      time.Time `json:"expires,omitzero" doc:"Absent: it stays until it is removed."`
}

// LockAdd makes a lock. With Existing it is a revocation: what there is by now ends, and a new login is free.
type LockAdd struct {
	Kind     string    `json:"kind" enum:"user,device,session,certificate,group"`
	Target   string    `json:"target" doc:"USER, a device's or session's id, a serial number, or provider/group; the group alone where there is one provider."`
	Message  string    `json:"message,omitempty" doc:"Shown to who is locked out."`
	Existing bool      `json:"existing,omitempty" doc:"Lock only what was issued by now, so that a new login is free."`
	Expires  time.Time `json:"expires,omitzero" doc:"When the lock ends by itself; never if left out."`
}

// LockAdded is a lock that is in force.
type LockAdded struct {
	Lock
	Reference string `json:"reference" doc:"Of the audit record."`
}

// Done answers a change that has nothing else to say.
type Done struct {
	Reference string `json:"reference" doc:"Of the audit record."`
}
