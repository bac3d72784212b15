"""Model structures: laws of motion by name, what is known of them, and what they say when they are fitted."""
