"""Explicit, multistep and switching methods: each a pure step, most of them a table."""
