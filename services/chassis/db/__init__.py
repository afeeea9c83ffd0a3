"""One transaction at a time on PostgreSQL, and what must happen exactly with it."""
