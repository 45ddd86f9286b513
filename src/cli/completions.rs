//! `quipu completions`: a script for a shell. The script asks the hidden command `quipu complete` for the next word.
//!
//! The answer has subcommands, flags and their values as the parser of the command line knows them, and the names of
//! topics, groups and members that the server has now. If it does not answer, there are no names.

use std::time::Duration;

use clap::{Arg, Command};
use clap_complete::Shell;
use serde_json::Value;

use super::api::{self, group_route};
use super::client::{Client, Route};
use super::connect::{self, Connect};
use super::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  source <(quipu completions bash)
  quipu completions zsh > ~/.zfunc/_quipu
  quipu completions fish > ~/.config/fish/completions/quipu.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

// bash also breaks words at `:` and `=`. Words without a blank between them are joined again; of an answer, bash takes
// what follows the last break.
const BASH: &str = r#"_quipu() {
    local IFS=$'\n' rest=${COMP_LINE#*"${COMP_WORDS[0]}"} words=() word= broken= i
    for ((i = 1; i <= COMP_CWORD; i++)); do
        [[ $rest == [[:blank:]]* ]] && words+=("")
        word=${COMP_WORDS[i]}
        broken=${words[${#words[@]} - 1]}
        words[${#words[@]} - 1]+=$word
        rest=${rest#"${rest%%[![:blank:]]*}"}
        rest=${rest#"$word"}
    done
    [[ $word == *[!:=]* ]] || broken+=$word
    COMPREPLY=($(quipu complete -- "${words[@]}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$broken"}")
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then compopt -o default; fi
}
complete -F _quipu quipu
"#;
// zsh runs the file itself at the first TAB, as the function `_quipu` that it is expected to define.
const ZSH: &str = r#"#compdef quipu
_quipu() {
    local -a found
    found=("${(@f)$(quipu complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -- "${found[@]}"; else _files; fi
}
if [[ "${funcstack[1]}" == _quipu ]]; then _quipu "$@"; else compdef _quipu quipu; fi
"#;
const FISH: &str = r#"function __quipu_complete
    set -l words (commandline -opc) (commandline -ct)
    quipu complete -- $words[2..-1] 2>/dev/null
end
complete -c quipu -f -a '(__quipu_complete)'
complete -c quipu -n '__fish_seen_subcommand_from produce inspect verify' -F
"#;

/// Prints the script of a shell. For shells other than bash, zsh and fish, it completes no names.
pub(crate) fn run(args: &Args, mut command: Command) -> anyhow::Result<()> {
    let script = match args.shell {
        Shell::Bash => BASH.to_owned(),
        Shell::Zsh => ZSH.to_owned(),
        Shell::Fish => FISH.to_owned(),
        shell => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "quipu", &mut script);
            String::from_utf8(script)?
        }
    };
    Ok(output::line(script.trim_end())?)
}

/// Longest wait for an answer of the server: somebody has pressed TAB.
const PATIENCE: Duration = Duration::from_secs(1);

/// The words after `quipu`, of which the last is to be completed.
#[derive(Debug, clap::Args)]
pub(crate) struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Prints what the last word may become, one a line.
pub(crate) fn complete(words: &Words, command: &Command) -> anyhow::Result<()> {
    let (last, before) = match words.words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", &[][..]),
    };
    let mut found = candidates(command, before, last, &names);
    found.retain(|candidate| candidate.starts_with(last));
    found.sort();
    found.dedup();
    match found.is_empty() {
        true => Ok(()),
        false => Ok(output::line(found.join("\n"))?),
    }
}

/// The flags and arguments before the last word.
#[derive(Default)]
struct Context<'a> {
    flags: Vec<(&'a str, &'a str)>,
    positionals: Vec<&'a str>,
}

fn candidates(
    root: &Command,
    before: &[String],
    last: &str,
    names: &dyn Fn(&str, &Context<'_>) -> Vec<String>,
) -> Vec<String> {
    let mut command = root;
    let mut context = Context::default();
    let mut waiting: Option<&Arg> = None;
    for word in before {
        if let Some(arg) = waiting.take() {
            context.flags.push((arg.get_id().as_str(), word));
        } else if word.starts_with('-') {
            match flag_of(command, word) {
                Some((arg, Some(value))) => context.flags.push((arg.get_id().as_str(), value)),
                Some((arg, None)) => waiting = Some(arg),
                None => {}
            }
        } else if let Some(subcommand) = command.find_subcommand(word) {
            command = subcommand;
        } else {
            context.positionals.push(word);
        }
    }
    let values = |arg: &Arg| {
        let possible = arg.get_possible_values().into_iter();
        let mut values: Vec<String> = possible.map(|value| value.get_name().to_owned()).collect();
        let name = arg.get_value_names().and_then(|names| names.first());
        // What is created has a new name.
        if command.get_name() != "create" {
            values.extend(names(name.map_or("", |name| name.as_str()), &context));
        }
        values
    };
    if let Some(arg) = waiting {
        return values(arg);
    }
    if last.starts_with('-') {
        if let Some((arg, Some(value))) = flag_of(command, last) {
            let flag = last.strip_suffix(value).unwrap_or(last);
            return values(arg).iter().map(|value| format!("{flag}{value}")).collect();
        }
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let flags = shown.filter_map(|arg| arg.get_long());
        return flags.map(|long| format!("--{long}")).collect();
    }
    let all = command.get_subcommands();
    let shown = all.filter(|subcommand| !subcommand.is_hide_set());
    let mut found: Vec<String> = shown.map(|subcommand| subcommand.get_name().to_owned()).collect();
    let positional = command.get_positionals().nth(context.positionals.len());
    let is_repeated = |arg: &&Arg| arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    let repeated = || command.get_positionals().last().filter(is_repeated);
    if let Some(arg) = positional.or_else(repeated) {
        found.extend(values(arg));
    }
    found
}

/// The flag of a word like `--group` or `--group=billing`, if it takes a value, and the value that the word has.
fn flag_of<'a>(command: &'a Command, word: &'a str) -> Option<(&'a Arg, Option<&'a str>)> {
    let parts = word.split_once('=');
    let (flag, value) = parts.map_or((word, None), |(flag, value)| (flag, Some(value)));
    let flag = flag.trim_start_matches('-');
    let mut all = command.get_arguments();
    let arg = all.find(|arg| {
        arg.get_long() == Some(flag) || arg.get_short().is_some_and(|short| flag == short.to_string())
    });
    let arg = arg.filter(|arg| arg.get_action().takes_values())?;
    Some((arg, value))
}

/// The names that an argument with this value name may take; most come from the server.
fn names(value_name: &str, context: &Context<'_>) -> Vec<String> {
    let list = |kind: &str, member: &str| -> Option<Vec<String>> {
        let items = api::list(&client(context)?, &Route::new(&["v1", kind]), kind).ok()?;
        Some(names_of(&items, member))
    };
    let members = || -> Option<Vec<String>> {
        let route = group_route(context.positionals.first()?, &[]);
        let group: Value = client(context)?.get(&route).ok()?;
        Some(names_of(group["members"].as_array()?, "member_id"))
    };
    match value_name {
        "TOPIC" | "TOPIC|URL" => list("topics", "name").unwrap_or_default(),
        "GROUP" | "OTHER" => list("groups", "group").unwrap_or_default(),
        "MEMBER" => members().unwrap_or_default(),
        "NAME" => connect::names(),
        "WHERE" => vec!["earliest".to_owned(), "latest".to_owned()],
        _ => Vec::new(),
    }
}

fn names_of(items: &[Value], member: &str) -> Vec<String> {
    let name = |item: &Value| Some(item[member].as_str()?.to_owned());
    items.iter().filter_map(name).collect()
}

fn client(context: &Context<'_>) -> Option<Client> {
    let flag = |id: &str| {
        let found = context.flags.iter().rfind(|(flag, _)| *flag == id);
        found.map(|(_, value)| (*value).to_owned())
    };
    let connect = Connect::of(["server", "token", "context"].map(flag));
    connect.client().ok().map(|client| client.within(PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_word_is_a_subcommand_a_flag_a_value_or_a_name() {
        let command = crate::cli::command();
        let names = |name: &str, context: &Context<'_>| {
            let flags = context.flags.iter();
            let flags: String = flags.map(|(flag, value)| format!("{flag}={value} ")).collect();
            vec![format!("<{flags}{name} {:?}>", context.positionals)]
        };
        let with_flags = "--server=http://h:1 consume --key=a=b ";
        for (words, expected) in [
            ("", "topic"),
            ("topic ", "describe"),
            ("--server x topic ", "describe"),
            ("topic list --", "--output"),
            ("topic list --", "--server"),
            ("topic list --output ", "json"),
            ("topic describe ", "<TOPIC []>"),
            ("consume a b ", "<TOPIC [\"a\", \"b\"]>"),
            ("consume a --group ", "<GROUP [\"a\"]>"),
            ("group kick g ", "<MEMBER [\"g\"]>"),
            ("group seek g --to-group ", "<OTHER [\"g\"]>"),
            ("completions ", "bash"),
            ("topic list --output=j", "--output=json"),
            ("consume a --group=", "--group=<GROUP [\"a\"]>"),
            (with_flags, "<server=http://h:1 key=a=b TOPIC []>"),
        ] {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let (last, before) = words.split_last().unwrap();
            let found = candidates(&command, before, last, &names);
            assert!(found.contains(&expected.to_owned()), "{words:?}: {found:?}");
            assert!(!found.contains(&"complete".to_owned()), "hidden");
        }
        let words = ["topic", "create"].map(str::to_owned);
        assert_eq!(candidates(&command, &words, "", &names), [""; 0], "a new name");
    }
}
