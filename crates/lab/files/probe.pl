# Tests what this process can access: reads lines `unix PATH`, `tcp ADDRESS:PORT`, `read PATH`, `list PATH` and
# `run COMMAND`, and prints those that succeed.
use strict;
use warnings;
use Socket;

open(my $targets, '<', $ARGV[0]) or die "$ARGV[0]: $!\n";
while (my $line = <$targets>) {
    chomp $line;
    my ($kind, $what) = split / /, $line, 2;
    my $works = 0;
    my $socket;
    if ($kind eq 'unix') {
        $works = socket($socket, PF_UNIX, SOCK_STREAM, 0) && connect($socket, pack_sockaddr_un($what));
    } elsif ($kind eq 'tcp') {
        my ($address, $port) = $what =~ /^(.*):(\d+)$/ or die "what is `$line`?\n";
        $works = socket($socket, PF_INET, SOCK_STREAM, 0)
            && connect($socket, pack_sockaddr_in($port, inet_aton($address)));
    } elsif ($kind eq 'run') {
        $works = system("$what </dev/null >/dev/null 2>&1") == 0;
    } elsif ($kind eq 'read') {
        $works = open(my $file, '<', $what);
    } elsif ($kind eq 'list') {
        $works = opendir(my $folder, $what);
    } else {
        die "what is `$line`?\n";
    }
    print "$line\n" if $works;
}
print "end\n";
