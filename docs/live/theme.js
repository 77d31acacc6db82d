"use strict";

/** Light or dark: as the reader's system has it, until they choose. Read before the page is drawn. */
function savedTheme(value) {
  try {
    if (value) localStorage.setItem("ssd-theme", value);
    return localStorage.getItem("ssd-theme");
  } catch {
    return value; // a page in a folder may not remember anything
  }
}

function useTheme(name) {
  if (name === "light" || name === "dark") document.documentElement.dataset.theme = name;
}

function otherTheme() {
  const dark =
    document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  return dark === "dark" ? "light" : "dark";
}

useTheme(savedTheme());
