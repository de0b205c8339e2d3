"""Handlers by topic. Each class has the handlers of one topic and lists them as routes."""
