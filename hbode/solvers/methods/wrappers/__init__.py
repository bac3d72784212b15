"""Methods made of other methods: a reversible pair, a switch between two, a start that moves."""
