//! A map of bounded size that forgets what was not used lately.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Two halves: what is used is taken to the young one, and when that is full, the old one is forgotten and it is the
/// old one. Cheaper than an order by use, and no less bounded.
#[derive(Debug)]
pub struct RecentMap<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq, V> RecentMap<K, V> {
    /// A map that keeps at least the `half` entries that were used last, and at most twice as many in all.
    pub fn new(half: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: half.max(1) }
    }

    /// An entry, which counts as used by that.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
        self.young.get(key)
    }

    /// An entry, which does not count as used by that.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Answers what was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value).or(before)
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_kept_and_the_rest_is_bounded() {
        let mut map = RecentMap::new(10);
        assert!(map.is_empty());
        map.insert(1000, "used");
        for key in 0..200 {
            assert_eq!(map.insert(key, "once"), None);
            assert_eq!(map.get(&1000), Some(&"used"), "after {key}");
            assert!(map.len() <= 20 && map.peek(&key) == Some(&"once"));
        }
        assert_eq!(map.get(&0), None);
        assert_eq!(map.peek(&1), None);
        assert_eq!(map.insert(1000, "new"), Some("used"));
        assert_eq!((map.remove(&1000), map.remove(&1000)), (Some("new"), None));
    }

    #[test]
    fn there_is_one_entry_for_a_key() {
        let mut map = RecentMap::new(2);
        for key in [1, 2, 3] {
            map.insert(key, key);
        }
        assert_eq!(map.insert(1, 10), Some(1));
        assert_eq!((map.remove(&1), map.get(&1)), (Some(10), None));
    }
}
