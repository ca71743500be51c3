"""How two maps agree, and how sure that is."""
