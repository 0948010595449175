//! The terminal: raw, on its other screen, and as it was when done.

use std::io::{self, Write};
use std::thread;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{execute, queue, terminal};
use tokio::sync::mpsc;

use super::view::{Line, Style};
use crate::color;

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Down,
    Up,
    Left,
    Right,
    Enter,
    Details,
    /// Back to the instance above, or the end.
    Quit,
    /// The end.
    End,
    Redraw,
}

/// The terminal while it is ours.
pub(super) struct Screen {
    color: bool,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn open(color: bool) -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        let screen = Screen { color };
        execute!(
            io::stdout(),
            EnterAlternateScreen,
            Hide,
            Clear(ClearType::All)
        )?;
        Ok(screen)
    }

    /// Starts to read keys, in a thread that lives as long as the process or the receiver.
    pub(super) fn keys(&self) -> mpsc::UnboundedReceiver<Key> {
        let (keys, receiver) = mpsc::unbounded_channel();
        thread::spawn(move || {
            // Without keys there is still what the tick shows; a signal ends the program then.
            while let Ok(event) = event::read() {
                if let Some(key) = key(&event)
                    && keys.send(key).is_err()
                {
                    break;
                }
            }
        });
        receiver
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        (rows.into(), columns.into())
    }

    /// Shows lines from the top, and nothing below them.
    pub(super) fn draw(&self, lines: &[Line], all_anew: bool) -> io::Result<()> {
        // Everything goes out in one piece: nobody sees half a screen.
        let mut out = Vec::with_capacity(4096);
        queue!(out, BeginSynchronizedUpdate)?;
        if all_anew {
            queue!(out, Clear(ClearType::All))?;
        }
        for (row, line) in (0..).zip(lines) {
            queue!(out, MoveTo(0, row))?;
            for (style, text) in &line.spans {
                match self.codes(*style) {
                    "" => write!(out, "{text}")?,
                    codes => write!(out, "{codes}{text}{}", color::RESET)?,
                }
            }
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        if lines.len() < self.size().0 {
            queue!(
                out,
                MoveTo(0, lines.len() as u16),
                Clear(ClearType::FromCursorDown)
            )?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        let mut stdout = io::stdout();
        stdout.write_all(&out)?;
        stdout.flush()
    }

    fn codes(&self, style: Style) -> &'static str {
        match style {
            Style::Plain => "",
            Style::Dim => "\x1b[2m",
            Style::Reverse => "\x1b[7m",
            Style::Yellow if self.color => color::YELLOW,
            Style::Red if self.color => color::RED,
            Style::BoldBlue if self.color => "\x1b[1m\x1b[34m",
            Style::BoldGreen if self.color => color::BOLD_GREEN,
            Style::BoldRed if self.color => color::BOLD_RED,
            Style::ReverseBlue if self.color => "\x1b[7m\x1b[1m\x1b[34m",
            Style::Yellow | Style::Red => "",
            Style::BoldBlue | Style::BoldGreen | Style::BoldRed => color::BOLD,
            Style::ReverseBlue => "\x1b[7m\x1b[1m",
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What fails here fails on a terminal that has gone.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// What an event of the terminal means; `None` for those that mean nothing.
fn key(event: &Event) -> Option<Key> {
    let key = match event {
        Event::Resize(..) => return Some(Key::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('l') => Some(Key::Redraw),
            // The terminal is raw: what used to end the program must still do.
            KeyCode::Char('c') => Some(Key::End),
            KeyCode::Char('j' | 'm') => Some(Key::Enter),
            _ => None,
        };
    }
    match key.code {
        KeyCode::Char('j') | KeyCode::Down => Some(Key::Down),
        KeyCode::Char('k') | KeyCode::Up => Some(Key::Up),
        KeyCode::Char('h') | KeyCode::Left => Some(Key::Left),
        KeyCode::Char('l') | KeyCode::Right => Some(Key::Right),
        KeyCode::Char('d') => Some(Key::Details),
        KeyCode::Char('q') => Some(Key::Quit),
        KeyCode::Enter => Some(Key::Enter),
        _ => None,
    }
}
