# The text of docs/options.md: every option that operators can set, as the module system documents it.
{
  lib,
  tree,
  host,
}:
let
  sys = import ./. { inherit lib tree host; };
in
let
  # From here on, `lib` is the library and not its folder.
  inherit (sys) lib;

  documented = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList sys.options.services.chatmail
  );

  # Without renamed and removed options, which explain themselves when they are set.
  options = lib.sort (a: b: a.name < b.name) (
    lib.filter (option: lib.hasPrefix "services.chatmail." option.name) documented
  );

  # Only the NixOS manual understands roles such as `{option}`.
  plain = builtins.replaceStrings [ "{option}`" "{file}`" "{command}`" ] [ "`" "`" "`" ];

  described = option: if option.description or null == null then "" else option.description;

  value =
    label: given:
    let
      text = lib.removeSuffix "\n" (given.text or "");
    in
    if given._type or "" == "literalMD" then
      "${label}: ${plain text}\n\n"
    else if lib.hasInfix "\n" text || lib.hasInfix "`" text then
      "${label}:\n\n```nix\n${text}\n```\n\n"
    else
      "${label}: `${text}`\n\n";

  section =
    option:
    "## ${option.name}\n\n${lib.removeSuffix "\n" (plain (described option))}\n\n"
    + "Type: ${option.type}\n\n"
    + lib.optionalString (option ? default) (value "Default" option.default)
    + lib.optionalString (option ? example) (value "Example" option.example);
in
{
  # Options without a description, or with neither a default nor an example.
  undescribed = map (option: option.name) (
    lib.filter (option: described option == "" || !(option ? default || option ? example)) options
  );

  text =
    "# Options\n\nEvery option of the module, by name. Written by `cargo lab render` from "
    + "[nixos/options.nix](../nixos/options.nix).\n\n"
    + lib.removeSuffix "\n" (lib.concatMapStrings section options);
}
