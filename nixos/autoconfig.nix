# The document that mail clients request for an address of the relay
# (https://www.ietf.org/archive/id/draft-bucksch-autoconfig-02.html). Clients try the servers in this order.
{ lib }:
domain:
let
  server = element: type: port: security: ''
    <${element} type="${type}">
      <hostname>${domain}</hostname>
      <port>${toString port}</port>
      <socketType>${security}</socketType>
      <authentication>password-cleartext</authentication>
      <username>%EMAILADDRESS%</username>
    </${element}>
  '';
  incoming = server "incomingServer" "imap";
  outgoing = server "outgoingServer" "smtp";
in
''
  <?xml version="1.0" encoding="UTF-8"?>
  <clientConfig version="1.1">
  <emailProvider id="${domain}">
  <domain>${domain}</domain>
  <displayName>${domain} chatmail</displayName>
  <displayShortName>${domain}</displayShortName>
''
+ lib.concatStrings [
  (incoming 993 "SSL")
  (incoming 143 "STARTTLS")
  (incoming 443 "SSL")
  (outgoing 465 "SSL")
  (outgoing 587 "STARTTLS")
  (outgoing 443 "SSL")
]
+ ''
  </emailProvider>
  </clientConfig>
''
