"""Native code: the entropy coder of policy files."""
