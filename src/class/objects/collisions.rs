//! Entries that want the same file. The very same entry twice is one; anything else is refused, since
//! one of two objects would silently win, or a file would have to be a folder too.

use std::collections::HashMap;

use crate::error::{Error, Result, printable};

use crate::class::ObjectSpec;
use crate::class::paths::Rules;

/// Merges identical entries with a notice and refuses the others that meet.
pub(super) fn resolve(
    objects: Vec<ObjectSpec>,
    rules: Rules,
    notices: &mut Vec<String>,
) -> Result<Vec<ObjectSpec>> {
    let mut kept: Vec<ObjectSpec> = Vec::with_capacity(objects.len());
    let mut first = HashMap::new();
    for object in objects {
        let position = *first.entry(rules.identity(object.path.as_str())).or_insert(kept.len());
        match kept.get(position) {
            Some(other) if same(other, &object) => notices.push(format!(
                "objects: array[{}] repeats array[{}] and is left out",
                object.index, other.index
            )),
            _ => kept.push(object),
        }
    }
    refuse_meetings(
        kept.iter()
            .flat_map(|object| files(object).map(move |file| (rules.identity(&file), object))),
    )?;
    Ok(kept)
}

/// Whether two entries of one path want the same bytes with the same mode.
fn same(one: &ObjectSpec, other: &ObjectSpec) -> bool {
    (one.kind, &one.name, &one.version, one.history, one.format, one.encoding, one.mode)
        == (
            other.kind,
            &other.name,
            &other.version,
            other.history,
            other.format,
            other.encoding,
            other.mode,
        )
}

/// Refuses files that cannot stand beside each other: two of one path, or one that is another's folder.
/// Each comes by the identity of its path, with the object that it belongs to.
pub(crate) fn refuse_meetings<'a>(
    files: impl Iterator<Item = (String, &'a ObjectSpec)>,
) -> Result<()> {
    // Sorted so that a folder's files follow a file of the folder's name at once, since no path holds a
    // NUL, which sorts before everything: only neighbours can meet.
    let mut files: Vec<(String, &ObjectSpec)> =
        files.map(|(file, object)| (file.replace('/', "\0"), object)).collect();
    files.sort_by(|(a, x), (b, y)| a.cmp(b).then(x.index.cmp(&y.index)));
    for ((file, object), (next, other)) in files.iter().zip(files.iter().skip(1)) {
        let Some(rest) = next.strip_prefix(file.as_str()) else { continue };
        let shown = printable(&file.replace('\0', "/"), 128);
        let problem = match rest.as_bytes().first() {
            None => format!(
                "array[{}] and array[{}] are both the file {shown}",
                object.index, other.index
            ),
            Some(0) => format!(
                "array[{}] is the file {shown}, which array[{}] needs as a folder",
                object.index, other.index
            ),
            Some(_) => continue,
        };
        let later = if object.index > other.index { object } else { other };
        return Err(Error::class(problem)
            .context(later.error_prefix())
            .fix("give each object a file of its own by objectAlias"));
    }
    Ok(())
}

fn files(object: &ObjectSpec) -> impl Iterator<Item = String> + '_ {
    (0..object.history).map(|version| match object.history {
        1 => object.path.as_str().to_owned(),
        _ => format!("{}/{version}", object.path),
    })
}
