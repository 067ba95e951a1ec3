"""The encoder, and how a Hugging Face directory becomes one and is made from one."""
