"""What a solve leaves behind: its steps, their outputs and events, and how each is run again."""
