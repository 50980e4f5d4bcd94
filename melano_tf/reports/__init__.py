"""Tables beside the published ones, and figures."""
