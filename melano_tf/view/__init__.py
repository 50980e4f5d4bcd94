"""The atlas: finished runs looked at in the browser, slide by slide, image by image (`view`)."""
