"""Conversations: from messages to token ids, and which of these a model learns."""
