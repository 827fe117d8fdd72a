"""Images from files: `pixels` decodes one, `folder` lists a folder's, `rows` decodes and keeps many."""
