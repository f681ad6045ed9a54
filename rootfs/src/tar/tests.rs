//! Archives of every format, and of none.
