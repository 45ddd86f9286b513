//! What members may do: who may join, with what, and whether the group can be stored with it. Nothing is changed here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Classic, Phase};
use crate::broker::groups::classic::roster::{Member, common};
use crate::broker::groups::classic::stored;
use crate::broker::groups::classic::{
    Denied, Identity, Joining, LEAST_SESSION_TIMEOUT_MS, MAX_GROUP_MEMBERS, MOST_SESSION_TIMEOUT_MS, Syncing,
};

impl Classic {
    /// Whether a member is let in, or gets an id to join with.
    ///
    /// # Errors
    /// Those of [`Classic::join`], but [`Denied::MemberIdRequired`].
    pub fn check_join(&self, joining: &Joining) -> Result<(), Denied> {
        if !(LEAST_SESSION_TIMEOUT_MS..=MOST_SESSION_TIMEOUT_MS).contains(&joining.session_timeout) {
            return Err(Denied::SessionTimeout);
        }
        let known = joining.member.as_ref().or(self.instance_of(joining));
        self.check_protocols(joining, known.map(|id| &**id))?;
        // Those to whom an id is promised have their places already.
        if known.is_none() && self.members.len() + self.promised.len() >= MAX_GROUP_MEMBERS {
            return Err(Denied::Full);
        }
        match &joining.member {
            Some(id) if joining.instance.is_some() || !self.promised.contains_key(id) => {
                self.check_member(id, joining.instance.as_deref())
            }
            _ => Ok(()),
        }
    }

    /// Whether the group can be stored in so many bytes once a member has joined.
    ///
    /// # Errors
    /// [`Denied::TooLarge`]; [`Denied::Full`]: there is no room for another member.
    pub fn check_stored(&self, joining: &Joining, most: usize) -> Result<(), Denied> {
        let id = joining.member.as_ref().or(self.instance_of(joining));
        let own = id.and_then(|id| self.members.get(id));
        let mut member = own.cloned().unwrap_or_else(|| Member::new(joining, 0));
        member.update(joining, 0);
        let bytes = member.stored_bytes();
        let others = self.members.iter().filter(|(other, _)| Some(*other) != id);
        let others: usize = others.map(|(_, member)| member.stored_bytes()).sum();
        if bytes > stored::MAX_BYTES || own.is_some() && others + bytes > most {
            return Err(Denied::TooLarge);
        }
        match others + bytes <= most {
            true => Ok(()),
            false => Err(Denied::Full),
        }
    }

    /// Whether the group can be stored in so many bytes with what its leader assigns.
    ///
    /// # Errors
    /// [`Denied::TooLarge`].
    pub fn check_assigned(&self, syncing: &Syncing<'_>, most: usize) -> Result<(), Denied> {
        let is_leader = self.leader.as_deref() == Some(syncing.who.member);
        if !is_leader || self.phase != (Phase::Completing { is_assigned: false }) {
            return Ok(());
        }
        let assigned = syncing.assignments.iter();
        let assigned: BTreeMap<&str, usize> = assigned.map(|(id, bytes)| (&**id, bytes.len())).collect();
        let mut all = 0;
        for (id, member) in &self.members {
            let assigned = assigned.get(&**id).copied().unwrap_or(0);
            // What it was assigned before counts no longer.
            let bytes = member.stored_bytes() - member.assignment.len() + assigned;
            all += bytes;
            if bytes > stored::MAX_BYTES || all > most {
                return Err(Denied::TooLarge);
            }
        }
        Ok(())
    }

    /// The static member that joins, if it is known.
    pub(super) fn instance_of(&self, joining: &Joining) -> Option<&Arc<str>> {
        self.instances.get(joining.instance.as_ref()?)
    }

    /// Whether a joining member has the others' protocol type, and a protocol in common with all of them.
    pub(super) fn check_protocols(&self, joining: &Joining, own: Option<&str>) -> Result<(), Denied> {
        let mut others = self
            .members
            .iter()
            .filter(|(id, _)| Some(&***id) != own)
            .peekable();
        let is_given = !joining.protocol_type.is_empty() && !joining.protocols.is_empty();
        let has_type = self.members.is_empty() || self.protocol_type.as_ref() == Some(&joining.protocol_type);
        let fits = others.peek().is_none() || {
            let common = common(others.map(|(_, member)| member));
            joining.protocols.iter().any(|(name, _)| common.contains(name))
        };
        match is_given && has_type && fits {
            true => Ok(()),
            false => Err(Denied::InconsistentProtocol),
        }
    }

    /// Whether there is a member of that id, and of that instance if it has one.
    pub(super) fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), Denied> {
        if let Some(instance) = instance {
            let known = self.instances.get(instance).ok_or(Denied::UnknownMember)?;
            if **known != *id {
                return Err(Denied::FencedInstance);
            }
        }
        match self.members.contains_key(id) {
            true => Ok(()),
            false => Err(Denied::UnknownMember),
        }
    }

    /// Whether a call is of a member of this generation.
    pub(super) fn check_identity(&self, who: &Identity<'_>) -> Result<(), Denied> {
        self.check_member(who.member, who.instance)?;
        match who.generation_id == self.generation_id {
            true => Ok(()),
            false => Err(Denied::IllegalGeneration),
        }
    }
}
