//! Credentials (kauth(9)): who asks.

use alloc::vec::Vec;

/// The most groups beside the first (NGROUPS_MAX).
pub const NGROUPS_MAX: usize = 16;

/// Who a process acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

impl Cred {
    /// The superuser.
    pub const fn root() -> Cred {
        Cred {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        }
    }

    /// Whether it is the superuser.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether it is in `group`.
    pub fn is_member(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_of_the_first_group_or_of_the_others() {
        let cred = Cred {
            uid: 5,
            gid: 10,
            groups: [20, 30].into(),
        };
        assert!(cred.is_member(10) && cred.is_member(30) && !cred.is_member(5));
        assert!(!cred.is_root() && Cred::root().is_root());
    }
}
