"""Looking at tasks and policies: who acts, what happens, and where it is shown."""
