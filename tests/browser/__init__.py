"""Pages as a person sees them: a real server, and the distribution's Chromium, driven by Playwright.

Every answer says that a page may load what is its own server's alone, and run no inline script; what the
browser holds to be a violation, and any other error in its console, fails the test.
"""
