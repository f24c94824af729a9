"""The search: what is asked, scored, told and decided."""
