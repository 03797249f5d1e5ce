# Restrictions of all of the relay's own units, as `serviceConfig`. Units override with `//` what they need.
{
  # No service has a capability or can gain one.
  AmbientCapabilities = "";
  CapabilityBoundingSet = "";
  NoNewPrivileges = true;
  RestrictSUIDSGID = true;

  # Services see the system read-only, and no files or processes of other users.
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

  # Services can use local sockets only.
  RestrictAddressFamilies = [ "AF_UNIX" ];
  IPAddressDeny = "any";

  # A runaway unit is stopped before it exhausts the machine. Daemons set their own limits.
  MemoryMax = "256M";
  TasksMax = 64;

  # Services cannot change the kernel, the clock or the host name.
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
