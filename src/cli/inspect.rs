//! `quipu inspect`: prints the contents of a segment, an index or a journal file, without a server.

use std::path::PathBuf;

use anyhow::bail;
use quipu_segments::{InspectedPart, InspectedValue, inspect};
use serde_json::{Map, Value, json};

use super::output::{self, time_ms};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu inspect quipu-data/topics/orders/0/00000000000000000000.log
  quipu inspect quipu-data/journal/00000000000000000001.journal --output json")]
pub(crate) struct Args {
    /// A file of a data directory: .log, .index, .timeindex or .journal
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) fn run(args: Args, is_json: bool) -> anyhow::Result<()> {
    let file = args.file.display();
    if args.file.is_dir() {
        bail!("{file} is a directory; quipu verify checks a data directory as a whole");
    }
    let mut parts = Vec::new();
    let mut printed = Ok(());
    let inspected = inspect(&args.file, &mut |part| {
        if is_json {
            parts.push(to_json(part));
        } else if printed.is_ok() {
            printed = output::line(sentence(&part));
        }
    })?;
    printed?;
    let Some(inspected) = inspected else {
        bail!("{file} is not a segment, an index or a journal file of quipu");
    };
    if is_json {
        output::json(&json!({
            "file": file.to_string(),
            "kind": inspected.kind,
            "bytes": inspected.bytes,
            "parts": parts,
            "damage": inspected.damage,
        }))?;
    } else {
        let (kind, bytes) = (&inspected.kind, inspected.bytes);
        output::line(format_args!("{file}: {kind} of {bytes} bytes"))?;
    }
    match &inspected.damage[..] {
        [] => Ok(()),
        [damage] => bail!("{file} is damaged: {damage}"),
        [first, rest @ ..] => bail!("{file} is damaged: {first} (and in {} more places)", rest.len()),
    }
}

/// `batch at 0: first_offset 0, records 10`.
fn sentence(part: &InspectedPart) -> String {
    let fields = part.fields.iter().map(|(name, value)| match value {
        InspectedValue::Number(millis) if name.ends_with("timestamp") => {
            format!("{name} {}", time_ms(i64::try_from(*millis).ok()))
        }
        InspectedValue::Number(number) => format!("{name} {number}"),
        InspectedValue::Text(text) => format!("{name} {}", text.escape_debug()),
        InspectedValue::None => format!("{name} none"),
    });
    let fields: Vec<String> = fields.collect();
    format!("{} at {}: {}", part.what, part.position.get(), fields.join(", "))
}

fn to_json(part: InspectedPart) -> Value {
    let mut members = Map::new();
    members.insert("what".to_owned(), part.what.into());
    members.insert("position".to_owned(), part.position.get().into());
    for (name, value) in part.fields {
        let value = match value {
            InspectedValue::Number(number) => match u64::try_from(number) {
                Ok(number) => number.into(),
                Err(_) => i64::try_from(number).map_or(Value::Null, Value::from),
            },
            InspectedValue::Text(text) => text.into(),
            InspectedValue::None => Value::Null,
        };
        members.insert(name.to_owned(), value);
    }
    members.into()
}
