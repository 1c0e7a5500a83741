package adminapi

import "time"

// RequestNew asks for a service for some time.
type RequestNew struct {
	Service string   `json:"service"`
	For     Duration `json:"for" doc:"For how long, from the approval on."`
	Reason  string   `json:"reason" doc:"Why, for who approves."`
}

// Request is somebody's wish to reach a service for some time, and what became of it.
type Request struct {
	ID        string    `json:"id"`
	User      Person    `json:"user"`
	Service   string    `json:"service"`
	For       Duration  `json:"for"`
	Reason    string    `json:"reason"`
	State     string    `json:"state" enum:"pending,approved,denied,withdrawn,ended"`
	Created   time.Time `json:"created"`
	DecidedBy string    `json:"decided_by,omitempty" doc:"Who approved, denied or ended it."`
	DecidedAt time.Time `json:"decided_at,omitzero"`
	Note      string    `json:"note,omitempty" doc:"What they said."`
	Until     time.Time `json:"until,omitzero" doc:"When an approved one ends by itself."`
}

// RequestQuery selects requests.
type RequestQuery struct {
	State string `query:"state" enum:"pending,approved,denied,withdrawn,ended" doc:"All states if left out."`
	User  string `query:"user" doc:"USER."`
	List
}

// OwnRequestQuery selects the caller's own requests.
type OwnRequestQuery struct {
	State string `query:"state" enum:"pending,approved,denied,withdrawn,ended" doc:"All states if left out."`
	List
}

// RequestDecide is what who decides a request says.
type RequestDecide struct {
	Note string `json:"note,omitempty" doc:"Shown to who asked."`
}

// RequestDecided is a request that was made, decided, withdrawn or ended.
type RequestDecided struct {
	Request
	Reference string `json:"reference" doc:"Of the audit record."`
}
