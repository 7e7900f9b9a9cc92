"""Conversations: from messages to the ids of a model, and what of them is learned."""
