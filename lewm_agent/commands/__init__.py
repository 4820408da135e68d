"""What the subcommands of ``lewm`` do; what one needs beyond its options is imported when it runs."""
