# A single program of the `chatmail` package, as a separate package.
{ chatmail, runCommand }:
name:
runCommand name
  {
    inherit (chatmail) version;
    meta = chatmail.meta // {
      mainProgram = name;
    };
  }
  ''
    mkdir -p $out/bin
    ln -s ${chatmail}/bin/${name} $out/bin/${name}
  ''
