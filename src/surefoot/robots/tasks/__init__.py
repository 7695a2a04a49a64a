"""Tasks that come with Surefoot, for robots that installed packages hold."""
