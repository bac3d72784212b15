"""What all reports share: tables, the style of figures, results folders, and what a result was computed with."""
