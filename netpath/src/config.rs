//! File + environment + flags → one validated [`Config`].
