"""From the arguments of a call to the problem that is solved: checks, states, fields, events, updates, options."""
