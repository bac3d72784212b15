"""Systems side by side, over the stiffness of a field, and one system with findings in sentences."""
