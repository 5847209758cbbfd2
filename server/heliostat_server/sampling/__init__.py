"""The explore service: seeds in, rewards out, a batch at a time."""
