"""The encoder, and everything between it and a Hugging Face directory: download, tokenizer, weights, export."""
