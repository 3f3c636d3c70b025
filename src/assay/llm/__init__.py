"""One client for language and vision-language models."""
