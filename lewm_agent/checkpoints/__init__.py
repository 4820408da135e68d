"""Agents on disk and on the Hub: our folder, the released format, model cards and inspection."""
