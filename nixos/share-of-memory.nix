# Limits for a daemon with a process for each session, as a share of the machine's memory. When its clients use more, the
# kernel kills one of its processes, not one of another service, and the others continue.
{ lib }:
share: {
  MemoryMax = lib.mkDefault share;
  OOMPolicy = lib.mkDefault "continue";
}
