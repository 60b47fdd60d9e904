"""Who calls, and what they may do: users, accounts, members, tokens, sessions, permissions."""
