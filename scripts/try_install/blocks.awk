# The shell blocks of a page. With `has`, the only one that has this text, whether tests run it or not: ends with 1 if there
# is not exactly one. Without, all that tests run, less the lines that need the repository.
/^```/ {
  if (is_open) {
    if (has != "" ? is_shell && index(text, has) : is_run) {
      printf "%s", text
      found++
    }
    is_open = 0
  } else {
    is_open = 1
    is_shell = /^```(sh|toml)( |$)/
    is_run = /^```sh$/
    text = ""
  }
  next
}
is_open && !(has == "" && /^(cargo|scripts\/)/) { text = text $0 "\n" }
END { exit has != "" && found != 1 }
