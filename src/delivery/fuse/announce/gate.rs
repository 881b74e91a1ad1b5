//! What a tree that nobody may write to lets through: one operation that was announced, once, by the thread
//! that announces.
//!
//! Which thread that is only the kernel can say in the terms in which it says it with every request (it has
//! a number in each pid namespace): the thread looks up a name that nobody else knows, and whoever does so is it.
//! A request without a number is nobody's.
//!
//! While names are being moved the gate also says where they lead: where they did until their own operation
//! is answered, and then elsewhere. The kernel looks a name up before it renames over it, and would take the
//! rename for done if it led to the new node already.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::view::{Attr, Kind, NodeId};

/// A change that the kernel asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Operation {
    /// A new symbolic link.
    Link { directory: NodeId, name: String, target: String },
    /// A new regular file.
    File { directory: NodeId, name: String },
    /// Another name in the same directory.
    Rename { directory: NodeId, from: String, to: String },
    /// One name less.
    Unlink { directory: NodeId, name: String },
}

impl Operation {
    fn directory(&self) -> NodeId {
        match self {
            Self::Link { directory, .. }
            | Self::File { directory, .. }
            | Self::Rename { directory, .. }
            | Self::Unlink { directory, .. } => *directory,
        }
    }
}

/// What an operation does to a name of its directory.
#[derive(Clone)]
pub(super) enum Effect {
    /// It leads there; or nowhere.
    Leads(Option<Attr>),
    /// It is the view's again.
    Thaws,
}

/// Shared by the handler and the announcing thread.
#[derive(Default)]
pub(in super::super) struct Gate(Mutex<State>);

#[derive(Default)]
struct State {
    /// The name by which our thread makes itself known.
    secret: Option<String>,
    thread: Option<u32>,
    names: HashMap<NodeId, HashMap<String, Option<Attr>>>,
    /// Whether a name leads to the node, where an operation has changed that.
    led: HashMap<Led, bool>,
    expected: Option<Expected>,
}

/// What an operation leads to.
#[derive(PartialEq, Eq, Hash)]
enum Led {
    File(NodeId),
    /// By a link: all files of the generation.
    Birth(u32),
}

impl Led {
    fn to(attr: &Attr) -> Self {
        match attr.kind {
            Kind::Link => Self::Birth(attr.id.birth),
            _ => Self::File(attr.id),
        }
    }
}

struct Expected {
    operation: Operation,
    answer: Option<Attr>,
    effects: Vec<(String, Effect)>,
}

impl Gate {
    /// Whoever looks this name up in the root is our thread.
    pub(super) fn ask_for(&self, secret: String) {
        let mut state = self.state();
        (state.secret, state.thread) = (Some(secret), None);
    }

    /// Whether it has looked it up, and the kernel told who it is.
    pub(super) fn is_known(&self) -> bool {
        self.state().thread.is_some()
    }

    /// From now on these names lead there, or nowhere.
    pub(super) fn freeze(&self, names: Vec<(NodeId, String, Option<Attr>)>) {
        let mut state = self.state();
        for (directory, name, leads) in names {
            state.names.entry(directory).or_default().insert(name, leads);
        }
    }

    /// The next operation of our thread is this one. `answer` is the node of what it creates.
    pub(super) fn expect(
        &self,
        operation: Operation,
        answer: Option<Attr>,
        effects: Vec<(String, Effect)>,
    ) {
        self.state().expected = Some(Expected { operation, answer, effects });
    }

    /// No operation is expected any more. Whether one was still.
    pub(super) fn withdraw(&self) -> bool {
        self.state().expected.take().is_some()
    }

    /// All names are the view's again, and nothing is let through.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.expected = None;
        state.names.clear();
        state.led.clear();
    }

    /// Whether this thread may do this, now and once; and the node of what it creates.
    pub(in super::super) fn admit(
        &self,
        thread: u32,
        operation: &Operation,
    ) -> Option<Option<Attr>> {
        let mut state = self.state();
        let ours = thread != 0 && state.thread == Some(thread);
        let expected =
            state.expected.take_if(|expected| ours && expected.operation == *operation)?;
        let State { names, led, .. } = &mut *state;
        let names = names.entry(operation.directory()).or_default();
        for (name, effect) in expected.effects {
            match effect {
                Effect::Leads(there) => {
                    let before = names.insert(name, there).flatten();
                    led.extend(before.map(|before| (Led::to(&before), false)));
                    led.extend(there.map(|there| (Led::to(&there), true)));
                }
                Effect::Thaws => drop(names.remove(&name)),
            }
        }
        Some(expected.answer)
    }

    /// Where a name leads, if the gate and not the view says so.
    pub(in super::super) fn lookup(
        &self,
        thread: u32,
        directory: NodeId,
        name: &OsStr,
    ) -> Option<Option<Attr>> {
        let mut state = self.state();
        let name = name.to_str()?;
        if directory == NodeId::ROOT && state.secret.as_deref() == Some(name) {
            state.secret = None;
            state.thread = Some(thread).filter(|thread| *thread != 0);
            return Some(None);
        }
        state.names.get(&directory)?.get(name).copied()
    }

    /// The same for a listing.
    pub(in super::super) fn listed(&self, directory: NodeId, name: &str) -> Option<Option<Attr>> {
        self.state().names.get(&directory)?.get(name).copied()
    }

    /// Whether a name leads to the file or link, if an operation of this announcement has changed that.
    pub(in super::super) fn leads_to(&self, id: NodeId) -> Option<bool> {
        let state = self.state();
        let led = |key| state.led.get(&key).copied();
        led(Led::File(id)).or_else(|| led(Led::Birth(id.birth)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn attr(birth: u32) -> Attr {
        let id = NodeId { birth, index: 2 };
        Attr { id, kind: Kind::Link, size: 1, mode: 0o777, modified: SystemTime::UNIX_EPOCH }
    }

    fn unlink(name: &str) -> Operation {
        Operation::Unlink { directory: NodeId::ROOT, name: name.to_owned() }
    }

    fn known(thread: u32) -> Gate {
        let gate = Gate::default();
        gate.ask_for("secret".to_owned());
        assert!(gate.lookup(thread, NodeId::ROOT, OsStr::new("secret")).unwrap().is_none());
        gate
    }

    #[test]
    fn one_operation_of_the_announcing_thread_passes_once() {
        let gate = known(7);
        assert!(gate.is_known());
        assert!(gate.admit(7, &unlink("a")).is_none(), "nothing was announced");
        gate.expect(unlink("a"), None, Vec::new());
        assert!(gate.admit(8, &unlink("a")).is_none(), "another thread");
        assert!(gate.admit(0, &unlink("a")).is_none(), "a thread that the kernel cannot name");
        assert!(gate.admit(7, &unlink("b")).is_none(), "another name");
        let rename =
            Operation::Rename { directory: NodeId::ROOT, from: "a".into(), to: "b".into() };
        assert!(gate.admit(7, &rename).is_none(), "another operation");
        let elsewhere =
            Operation::Unlink { directory: NodeId { birth: 1, index: 3 }, name: "a".into() };
        assert!(gate.admit(7, &elsewhere).is_none(), "another directory");
        assert!(gate.admit(7, &unlink("a")).is_some());
        assert!(gate.admit(7, &unlink("a")).is_none(), "twice");
        assert!(!gate.withdraw());
        gate.expect(unlink("a"), None, Vec::new());
        assert!(gate.withdraw());
        assert!(gate.admit(7, &unlink("a")).is_none(), "withdrawn");
        gate.expect(unlink("a"), None, Vec::new());
        gate.close();
        assert!(gate.admit(7, &unlink("a")).is_none(), "closed");
    }

    #[test]
    fn a_thread_that_the_kernel_cannot_name_is_not_ours() {
        let gate = known(0);
        assert!(!gate.is_known());
        gate.expect(unlink("a"), None, Vec::new());
        assert!(gate.admit(0, &unlink("a")).is_none());
        // The name is good for one look-up, in the root.
        let gate = known(7);
        assert!(gate.lookup(8, NodeId::ROOT, OsStr::new("secret")).is_none());
        gate.ask_for("next".to_owned());
        assert!(!gate.is_known());
        let below = NodeId { birth: 0, index: 9 };
        assert!(gate.lookup(8, below, OsStr::new("next")).is_none());
        assert!(!gate.is_known());
    }

    #[test]
    fn a_name_leads_where_it_did_until_its_own_operation() {
        let gate = known(7);
        let name = OsStr::new("a");
        let leads = || gate.lookup(9, NodeId::ROOT, name).map(|there| there.map(|a| a.id.birth));
        assert_eq!(leads(), None);
        gate.freeze(vec![(NodeId::ROOT, "a".to_owned(), Some(attr(1)))]);
        assert_eq!(leads(), Some(Some(1)));
        gate.expect(unlink("a"), None, vec![("a".to_owned(), Effect::Leads(Some(attr(2))))]);
        assert_eq!(leads(), Some(Some(1)));
        gate.admit(7, &unlink("a")).unwrap();
        assert_eq!(leads(), Some(Some(2)));
        gate.expect(unlink("a"), None, vec![("a".to_owned(), Effect::Leads(None))]);
        gate.admit(7, &unlink("a")).unwrap();
        assert_eq!(leads(), Some(None));
        gate.expect(unlink("a"), None, vec![("a".to_owned(), Effect::Thaws)]);
        gate.admit(7, &unlink("a")).unwrap();
        assert_eq!(leads(), None);
    }

    #[test]
    fn a_node_has_a_name_as_the_operations_say_until_the_view_does() {
        for kind in [Kind::Link, Kind::File] {
            let gate = known(7);
            let (old, new) = (Attr { kind, ..attr(1) }, Attr { kind, ..attr(2) });
            let leads = || (gate.leads_to(old.id), gate.leads_to(new.id));
            let make = |operation: Operation, effects: Vec<(String, Effect)>| {
                gate.expect(operation.clone(), None, effects);
                gate.admit(7, &operation).unwrap();
            };
            gate.freeze(vec![(NodeId::ROOT, "a".to_owned(), Some(old))]);
            assert_eq!(leads(), (None, None));
            let create = Operation::File { directory: NodeId::ROOT, name: "b".into() };
            make(create, vec![("b".to_owned(), Effect::Leads(Some(new)))]);
            assert_eq!(leads(), (None, Some(true)));
            let rename =
                Operation::Rename { directory: NodeId::ROOT, from: "b".into(), to: "a".into() };
            let gone = ("b".to_owned(), Effect::Leads(None));
            make(rename, vec![gone, ("a".to_owned(), Effect::Leads(Some(new)))]);
            assert_eq!(leads(), (Some(false), Some(true)));
            // A link leads to all of its generation.
            let other = gate.leads_to(NodeId { birth: 1, index: 9 });
            assert_eq!(other, (kind == Kind::Link).then_some(false));
            gate.close();
            assert_eq!(leads(), (None, None));
        }
    }
}
