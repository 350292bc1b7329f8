"""What tries to break the project: damaged and hostile files; see mutate.py."""
