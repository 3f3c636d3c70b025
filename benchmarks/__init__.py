"""Speed, against limits and peers."""
