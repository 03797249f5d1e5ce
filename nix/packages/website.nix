# The web site of a relay in all its languages, as nginx serves it.
{ chatmail, runCommand }:
{ settingsFile, sources }:
runCommand "chatmail-website" { } ''
  ${chatmail}/bin/chatmail --settings ${settingsFile} website ${
    toString (map (source: "--source ${source}") sources)
  } --output site
  cp -r site $out
''
