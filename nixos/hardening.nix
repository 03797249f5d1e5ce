# What every unit of ours is denied, as `serviceConfig`. Units add what they need with `//`.
{
  # None of our services has a capability, and none can get one.
  AmbientCapabilities = "";
  CapabilityBoundingSet = "";
  NoNewPrivileges = true;
  RestrictSUIDSGID = true;

  # They see the system read-only, no other user's files and no other user's processes.
  ProtectSystem = "strict";
  ProtectHome = true;
  ProtectProc = "invisible";
  ProcSubset = "pid";
  PrivateTmp = true;
  PrivateDevices = true;
  PrivateUsers = true;
  DevicePolicy = "closed";
  RemoveIPC = true;
  UMask = "0077";

  # They reach local sockets only.
  RestrictAddressFamilies = [ "AF_UNIX" ];
  IPAddressDeny = "any";

  # A unit that runs wild ends before the machine does. Daemons set bounds of their own.
  MemoryMax = "256M";
  TasksMax = 64;

  # They cannot touch the kernel, the clock or the host's name.
  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  RestrictNamespaces = true;
  RestrictRealtime = true;
  SystemCallArchitectures = "native";
  SystemCallFilter = [
    "@system-service"
    "~@privileged @resources"
  ];
  SystemCallErrorNumber = "EPERM";
}
