"""Services at home for people with nothing but a browser: who was given which, and what a visit may do."""
