die "no such thing\n";
