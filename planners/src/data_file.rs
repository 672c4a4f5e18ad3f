//! What a table's log says of one of its data files, on its way from the table to the task that reads it.
//!
//! A table makes it an extension of DataFusion's `PartitionedFile`; [`crate::splits`] puts it into the splits,
//! [`crate::leaf`] makes it an extension again where the task runs.

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};

/// A file that a log lists under a name that no other file ever gets: what is read under it cannot have changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggedFile {
    /// Rows of the file that are no rows of the table any more.
    pub deleted: Option<DeletedRows>,
}

impl LoggedFile {
    /// The file with what the log says of it; deleted rows are not read.
    pub fn attach(self, file: PartitionedFile) -> PartitionedFile {
        let mut file = file;
        if let Some(deleted) = &self.deleted {
            file = file.with_extension(ParquetRowSelection::new(deleted.selection()));
        }
        file.with_extension(self)
    }

    /// What was attached to a file.
    pub fn of(file: &PartitionedFile) -> Option<&Self> {
        file.extensions.get::<Self>()
    }
}

/// How many files a table had before filters left some of them out: an extension of each file that is left, for EXPLAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFiles(pub usize);

impl TableFiles {
    pub fn attach(self, file: PartitionedFile) -> PartitionedFile {
        file.with_extension(self)
    }

    /// Of a scan; none where its table does not say.
    pub fn of_scan(config: &FileScanConfig) -> Option<usize> {
        let mut files = config.file_groups.iter().flat_map(|group| group.iter());
        files.next()?.extensions.get::<Self>().map(|it| it.0)
    }
}

/// Rows of a file by their position, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedRows {
    /// Rows of the whole file, deleted ones too.
    file_rows: u64,
    /// `start..end`. Invariant: not empty, ascending, apart from one another, within the file.
    ranges: Vec<(u64, u64)>,
}

impl DeletedRows {
    /// From ascending positions, as deletion vectors have them.
    ///
    /// Errs with the reason when a position comes twice, is out of order or behind the end of the file.
    pub fn from_positions(file_rows: u64, positions: impl IntoIterator<Item = u64>) -> Result<Self, String> {
        let mut ranges: Vec<(u64, u64)> = vec![];
        for position in positions {
            if position >= file_rows {
                return Err(format!("row {position} is deleted, but the file has {file_rows} rows"));
            }
            match ranges.last_mut() {
                Some((_, end)) if *end == position => *end += 1,
                Some((_, end)) if *end > position => return Err("its positions are out of order".to_owned()),
                _ => ranges.push((position, position + 1)),
            }
        }
        Ok(Self { file_rows, ranges })
    }

    /// Number of deleted rows.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// Those from `start` to before `end`, of the same file.
    pub fn within(&self, start: u64, end: u64) -> Self {
        let ranges =
            self.ranges.iter().map(|&(from, to)| (from.max(start), to.min(end))).filter(|(from, to)| from < to);
        Self { file_rows: self.file_rows, ranges: ranges.collect() }
    }

    /// Adds those of a later part of the same file.
    pub fn extend(&mut self, later: &Self) {
        for &(start, end) in &later.ranges {
            match self.ranges.last_mut() {
                Some(last) if last.1 >= start => last.1 = last.1.max(end),
                _ => self.ranges.push((start, end)),
            }
        }
    }

    /// The rows that are left, as Parquet's reader takes it: over all rows of the file.
    fn selection(&self) -> RowSelection {
        let rows = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let mut selectors = vec![];
        let mut at = 0;
        for &(start, end) in &self.ranges {
            if start > at {
                selectors.push(RowSelector::select(rows(start - at)));
            }
            selectors.push(RowSelector::skip(rows(end - start)));
            at = end;
        }
        if self.file_rows > at {
            selectors.push(RowSelector::select(rows(self.file_rows - at)));
        }
        selectors.into()
    }

    /// Numbers for the wire: rows of the file, then the gap before and the length of each range.
    pub fn to_numbers(&self) -> Vec<u64> {
        let mut numbers = vec![self.file_rows];
        let mut at = 0;
        for &(start, end) in &self.ranges {
            numbers.extend([start - at, end - start]);
            at = end;
        }
        numbers
    }

    /// Reads what [`Self::to_numbers`] wrote; `None` when it is no such thing.
    pub fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let (&file_rows, pairs) = numbers.split_first()?;
        if pairs.len() % 2 != 0 {
            return None;
        }
        let mut ranges = vec![];
        let mut at: u64 = 0;
        for pair in pairs.chunks_exact(2) {
            let start = at.checked_add(pair[0])?;
            let end = start.checked_add(pair[1])?;
            if end <= start || end > file_rows || (pair[0] == 0 && at > 0) {
                return None;
            }
            ranges.push((start, end));
            at = end;
        }
        Some(Self { file_rows, ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(positions: &[u64]) -> DeletedRows {
        DeletedRows::from_positions(10, positions.iter().copied()).unwrap()
    }

    fn kept(deleted: &DeletedRows) -> Vec<usize> {
        let mut at = 0;
        let mut kept = vec![];
        for selector in deleted.selection().iter() {
            if !selector.skip {
                kept.extend(at..at + selector.row_count);
            }
            at += selector.row_count;
        }
        assert_eq!(at, 10, "a selection covers the file");
        kept
    }

    #[test]
    fn what_is_not_deleted_is_read() {
        assert_eq!(kept(&deleted(&[])), (0..10).collect::<Vec<_>>());
        assert_eq!(kept(&deleted(&[0, 1, 5, 9])), [2, 3, 4, 6, 7, 8]);
        assert!(kept(&deleted(&(0..10).collect::<Vec<_>>())).is_empty());
        assert_eq!(deleted(&[0, 1, 5, 9]).count(), 4);
        assert!(DeletedRows::from_positions(10, [10]).is_err());
        assert!(DeletedRows::from_positions(10, [3, 3]).is_err());
        assert!(DeletedRows::from_positions(10, [3, 2]).is_err());
    }

    #[test]
    fn parts_make_up_the_whole() {
        let whole = deleted(&[0, 1, 4, 5, 9]);
        let (mut first, last) = (whole.within(0, 5), whole.within(5, 10));
        assert_eq!((first.count(), last.count()), (3, 2));
        first.extend(&last);
        assert_eq!(first, whole);
    }

    #[test]
    fn numbers_read_back() {
        for positions in [&[][..], &[0], &[9], &[0, 1, 5, 9]] {
            let rows = deleted(positions);
            assert_eq!(DeletedRows::from_numbers(&rows.to_numbers()), Some(rows));
        }
        for wrong in [&[][..], &[10, 1], &[10, 5, 6], &[10, 1, 0], &[10, u64::MAX, 2], &[10, 1, 2, 0, 1]] {
            assert_eq!(DeletedRows::from_numbers(wrong), None, "{wrong:?}");
        }
    }
}
